"""A DICOM node as a user starts it: with pynetdicom on the other sides, and with DCMTK's programs."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading

import psutil
import pydicom
import pytest

from pipelines.deployment.node.job import REASON
from pipelines.deployment.node.node import MOST_STARTS
from tests.e2e.commands import REPOSITORY, Workplace
from tests.e2e.page_commands import environment_of_reader, page_commands, run_commands
from tests.e2e.servers import free_port
from tests.e2e.test_anonymous import leaks, mark
from tests.pipelines.deployment.node.peers import associate, destination, series
from tests.pipelines.tiny_model import HALT, write_dicom, write_model
from tests.waiting import PATIENCE, runs, wait_for

TITLE = "SEGBUNDLES"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


class RunningNode:
    """A node in a process of its own."""

    def __init__(self, process, folder, port):
        self.process, self.folder, self.port = process, folder, port

    @property
    def said(self):
        return (self.folder / "node.log").read_text(encoding="utf-8")

    def wait_for(self, condition):
        return wait_for(condition, self.process, said=lambda: self.said)

    def wait_to_say(self, text):
        self.wait_for(lambda: text in self.said)

    def jobs(self, place):
        return sorted((self.folder / "queue" / place).iterdir())

    def is_segmenting(self):
        return any((job / "results" / ".unfinished").exists() for job in self.jobs("jobs"))

    def workers(self):
        """Its processes that segment; beside them runs one of multiprocessing's own."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if runs(child.pid) and "spawn_main" in " ".join(child.cmdline())]


@contextlib.contextmanager
def node(folder, model, *words, **environment):
    """`python -m pipelines node` in a folder, from when it listens; killed when the block ends."""
    place, port = Workplace(folder, database=False), free_port()
    given = ["--bundle", "bundles/r2unet", "--model", model, "--queue", folder / "queue", "--device", "cpu"]
    given += ["--port", port, "--after-release", "0.3", "--retry", "0.5", *words]
    with (folder / "node.log").open("a") as log:
        command = ["-m", "pipelines", "node", *map(str, given)]
        before = (folder / "node.log").read_text().count("listens at")
        with place.started(command, environment, stdout=log, stderr=log) as process:
            running = RunningNode(process, folder, port)
            running.wait_for(lambda: running.said.count("listens at") > before)
            yield running


def read_dicom(folder, name):
    write_dicom(folder / name, series=name)
    return [pydicom.dcmread(path) for path in sorted((folder / name).iterdir())]


def test_series_come_in_and_segmentations_go_out(tmp_path, model):
    """Two series over one association, while the destination is away; one more whose pixels are damaged."""
    port = free_port()
    good = [read_dicom(tmp_path, name) for name in ("a", "b")]
    damaged = series("1.2.99")
    for image in damaged:
        image.PixelData = image.PixelData[:10]
    out = tmp_path / "out"
    with node(tmp_path, model, "--send", f"PACS@127.0.0.1:{port}", "-o", out, "--accept", "CT1") as running:
        assert associate(running.port, calling="STRANGER").is_rejected
        association = associate(running.port, calling="CT1")
        for image in [*damaged, *(image for pair in zip(*good, strict=True) for image in pair)]:
            assert association.send_c_store(image).Status == 0
        association.release()
        running.wait_to_say(f"PACS@127.0.0.1:{port} does not answer; the results are kept, next try in")
        with destination(port=port) as (_, taken):
            running.wait_for(lambda: len(taken) == 2 and not running.jobs("outbox"))
        running.process.terminate()
        assert running.process.wait(PATIENCE) == 0
    (aside,) = running.jobs("aside")
    reason = (aside / REASON).read_text(encoding="utf-8")
    assert reason.count("\n") == 1
    assert "bytes" in reason
    assert {seg.StudyInstanceUID for seg in taken} == {good[0][0].StudyInstanceUID}
    sources = {seg.ReferencedSeriesSequence[0].SeriesInstanceUID for seg in taken}
    assert sources == {images[0].SeriesInstanceUID for images in good}
    written = {path.name for path in out.glob("*/*.seg.dcm")}
    assert written == {f"{uid}.seg.dcm" for uid in sources}
    assert [running.jobs(place) for place in ("receiving", "incoming", "jobs", "outbox")] == [[]] * 4
    assert "'STRANGER' is not in --accept" in running.said
    assert "Traceback" not in running.said


def test_mistakes_are_one_sentence(tmp_path, model):
    place = Workplace(tmp_path, database=False)
    given = ["-m", "pipelines", "node", "--bundle", "bundles/r2unet", "--model", str(model)]
    given += ["--queue", str(tmp_path / "queue")]
    for words, said in (
        ([], "name a destination for results"),
        (["-o", "x", "--host", "0.0.0.0"], "others can call; name those that may with --accept"),
        (["--send", "PACS"], "is no destination; give AET@host:port"),
    ):
        done = place.run([*given, *words], check=False)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "queue").exists()


# --- with DCMTK ---------------------------------------------------------------------------------------------------------

dcmtk = pytest.mark.skipif(
    shutil.which("storescu") is None or shutil.which("storescp") is None,
    reason="needs DCMTK's storescu and storescp (Debian: apt-get install dcmtk)",
)


def storescu(port, *paths, calling="CT1", options=()):
    words = ["storescu", "-aet", calling, "-aec", TITLE, *options, "+sd", "127.0.0.1", str(port)]
    return subprocess.run([*words, *map(str, paths)], capture_output=True, text=True)


@contextlib.contextmanager
def storescp(folder, port, *options):
    """DCMTK's destination; yields a function that says what it has received."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        ["storescp", *options, "-od", str(folder), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield lambda: sorted(folder.iterdir())
    finally:
        process.kill()
        process.wait()


def series_of(paths):
    return sorted(pydicom.dcmread(path).ReferencedSeriesSequence[0].SeriesInstanceUID for path in paths)


@dcmtk
@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path, model):
    """docs/node.md: one after the other, those that end in "&" beside the rest.

    pynetdicom has programs of DCMTK's names beside this Python, so that is not put first on PATH.
    """
    read_dicom(tmp_path, "a")
    node_port, pacs_port = str(free_port()), str(free_port())
    replaced = {
        "11112": node_port,
        "11113": pacs_port,
        "CT_FOLDER": tmp_path / "a",
        "python -m": f"{sys.executable} -m",
        "bundles/r2unet": f"{REPOSITORY}/bundles/r2unet --model {model} --device cpu --port {node_port}",
    }
    given = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"]}
    environment = environment_of_reader(**given)
    with contextlib.ExitStack() as stack:
        for line in page_commands("node.md", "", replaced)[1].splitlines():
            command, beside, _ = line.partition(" &")
            if beside:
                process = subprocess.Popen(["sh", "-c", f"exec {command}"], cwd=tmp_path, env=environment)
                stack.callback(process.wait)
                stack.callback(process.kill)
                port = pacs_port if "storescp" in line else node_port
                wait_for(lambda port=port: listens(port), process)
            else:
                run_commands(command, tmp_path, **given)
        wait_for(lambda: list((tmp_path / "received").iterdir()), process)
    (seg,) = (tmp_path / "received").iterdir()
    assert pydicom.dcmread(seg).Modality == "SEG"


def listens(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", int(port))) == 0


@dcmtk
@pytest.mark.slow
def test_killed_in_the_middle_of_a_job_and_done_once_after_the_next_start(tmp_path, model):
    images, port = read_dicom(tmp_path, "a"), free_port()
    words = ["--send", f"STORESCP@127.0.0.1:{port}", "-o", tmp_path / "out"]
    with storescp(tmp_path / "pacs", port) as received:
        with node(tmp_path, model, *words, **{HALT: f"0:{tmp_path}"}) as running:
            assert storescu(running.port, tmp_path / "a").returncode == 0
            running.wait_for(running.is_segmenting)
            workers = psutil.Process(running.process.pid).children()
            running.process.kill()
            running.process.wait()
            psutil.wait_procs(workers, PATIENCE)
        assert not received()
        for _ in range(2):  # the second start finds nothing to do
            with node(tmp_path, model, *words) as running:
                running.wait_for(
                    lambda: received() and not running.jobs("outbox") and not running.jobs("jobs")
                )
    (seg,) = received()
    assert series_of([seg]) == [images[0].SeriesInstanceUID]
    assert len(list((tmp_path / "out").iterdir())) == 1
    assert running.said.count("is segmented") == 1
    assert running.said.count("is sent to") == 1


@dcmtk
@pytest.mark.slow
def test_killed_while_images_come_in(tmp_path, model):
    """What storescu was told to be stored is there after the next start; it sends the rest again."""
    images, port = read_dicom(tmp_path, "a"), free_port()
    words = ["--send", f"STORESCP@127.0.0.1:{port}", "--silence", "1e6"]
    with node(tmp_path, model, *words) as running:
        association = associate(running.port)
        for image in images[:4]:
            assert association.send_c_store(image).Status == 0
        running.process.kill()
        running.process.wait()
        association.abort()
    kept = {path.stem for path in (tmp_path / "queue" / "incoming").rglob("*.dcm")}
    assert kept == {image.SOPInstanceUID for image in images[:4]}
    with storescp(tmp_path / "pacs", port) as received, node(tmp_path, model, *words) as running:
        assert storescu(running.port, tmp_path / "a").returncode == 0
        running.wait_for(lambda: received() and not running.jobs("outbox"))
        assert "10 images" in running.said


@dcmtk
@pytest.mark.slow
def test_dcmtk_sends_all_kinds_of_things(tmp_path, model):
    """A stranger; two series over one association; two clients at once; non-images and damaged ones between them."""
    names, port = ("a", "b", "c", "d"), free_port()
    uids = sorted(read_dicom(tmp_path, name)[0].SeriesInstanceUID for name in names)
    others = tmp_path / "others"
    others.mkdir()
    for number, image in enumerate(series("1.2.77")):
        image.Modality, image.SOPClassUID = "MR", "1.2.840.10008.5.1.4.1.1.4"
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.save_as(others / f"mr{number}.dcm")
    for number, image in enumerate(series("1.2.88")):
        del image.PixelData
        image.save_as(others / f"without_pixels{number}.dcm")
    for number, image in enumerate(series("1.2.99")):
        image.PixelData = image.PixelData[:10]
        image.save_as(others / f"damaged{number}.dcm")
    (others / "no_dicom.dcm").write_bytes(b"no DICOM at all")
    words = ["--send", f"STORESCP@127.0.0.1:{port}", "--accept", "CT1", "CT2"]
    with node(tmp_path, model, *words) as running:
        refused = storescu(running.port, tmp_path / "a", calling="STRANGER")
        assert refused.returncode != 0
        assert "Calling AE Title Not Recognized" in refused.stderr
        echo = ["echoscu", "-aet", "CT1", "-aec", TITLE, "127.0.0.1", str(running.port)]
        assert subprocess.run(echo).returncode == 0
        sent = {}

        def client(title, *folders):
            sent[title] = storescu(running.port, *folders, calling=title, options=("--no-halt",))

        pairs = (("CT1", tmp_path / "a", others, tmp_path / "b"), ("CT2", tmp_path / "c", tmp_path / "d"))
        clients = [threading.Thread(target=client, args=words) for words in pairs]
        for each in clients:
            each.start()
        for each in clients:
            each.join()
        assert sent["CT2"].returncode == 0, sent["CT2"].stderr
        running.wait_for(lambda: len(running.jobs("outbox")) == 4 and not running.jobs("jobs"))
        with storescp(tmp_path / "pacs", port) as received:
            running.wait_for(lambda: not running.jobs("outbox"))
            assert series_of(received()) == uids
        running.wait_for(lambda: len(running.jobs("aside")) == 2)
    reasons = [(job / REASON).read_text(encoding="utf-8") for job in running.jobs("aside")]
    assert all(reason.count("\n") == 1 and len(reason) > 20 for reason in reasons), reasons
    assert "'STRANGER' is not in --accept" in running.said
    assert "1.2.77" not in running.said, "MR was taken, which no model here reads"
    assert "Traceback" not in running.said


@pytest.mark.slow
def test_a_series_that_ends_its_process_each_time_stops_no_other(tmp_path, model):
    with node(tmp_path, model, "-o", tmp_path / "out", **{HALT: f"0:{tmp_path}"}) as running:
        association = associate(running.port)
        for image in read_dicom(tmp_path, "a"):
            association.send_c_store(image)
        association.release()
        for number in range(MOST_STARTS):
            # Its network waits for ever: killed as by a system without memory.
            running.wait_for(lambda: running.is_segmenting() and running.workers())
            shutil.rmtree(running.jobs("jobs")[0] / "results")
            running.workers()[0].kill()
            running.wait_for(lambda n=number: running.said.count("SIGKILL") > n)
        running.wait_for(lambda: running.jobs("aside"))
        assert f"{MOST_STARTS} times." in (running.jobs("aside")[0] / REASON).read_text(encoding="utf-8")
        associate(running.port, contexts=("1.2.840.10008.1.1",)).release()


@dcmtk
@pytest.mark.slow
def test_encrypted_in_both_directions(tmp_path, model):
    certificates(tmp_path)
    ours = [tmp_path / name for name in ("node.pem", "node.key", "ca.pem")]
    theirs = ("+tls", tmp_path / "peer.key", tmp_path / "peer.pem", "+cf", tmp_path / "ca.pem")
    theirs = [*map(str, theirs)]
    read_dicom(tmp_path, "a")
    port = free_port()
    words = ["--send", f"STORESCP@localhost:{port}", "--tls", *ours]
    with (
        node(tmp_path, model, *words) as running,
        storescp(tmp_path / "pacs", port, *theirs, "-rc") as received,
    ):
        assert storescu(running.port, tmp_path / "a").returncode != 0, "without TLS"
        assert storescu(running.port, tmp_path / "a", options=("+tla", "-ic")).returncode != 0, (
            "no certificate"
        )
        done = storescu(running.port, tmp_path / "a", options=theirs)
        assert done.returncode == 0, done.stderr
        running.wait_for(lambda: received() and not running.jobs("outbox"))


def certificates(folder):
    """An authority, and a certificate for each side."""

    def openssl(*words):
        subprocess.run(["openssl", *map(str, words)], cwd=folder, check=True, capture_output=True)

    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=ca",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    )
    for name in ("node", "peer"):
        openssl(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{name}.key",
            "-out",
            "csr",
        )
        words = ("-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "30")
        openssl("x509", "-req", "-in", "csr", "-CA", "ca.pem", *words, "-out", f"{name}.pem")


@pytest.mark.slow
def test_an_anonymous_node_names_the_patient_in_the_result_alone(tmp_path, model):
    """What is sent has to be the patient's; log, report and names of files are not."""
    write_dicom(tmp_path / "in0", series="a")
    mark(tmp_path / "in0")
    images = [pydicom.dcmread(path) for path in sorted((tmp_path / "in0").iterdir())]
    with node(tmp_path, model, "-o", tmp_path / "out", "--anonymous") as running:
        association = associate(running.port, calling="CT1")
        for image in images:
            assert association.send_c_store(image).Status == 0
        damaged = series("1.2.99")[0]
        damaged.PixelData = damaged.PixelData[:10]
        association.send_c_store(damaged)
        association.release()
        running.wait_for(lambda: (tmp_path / "out").is_dir() and any((tmp_path / "out").glob("*/*.dcm")))
        running.wait_for(lambda: running.jobs("aside") and not running.jobs("outbox"))
    (seg,) = (tmp_path / "out").glob("*/*.dcm")
    assert seg.name == "case001.seg.dcm"
    assert pydicom.dcmread(seg).PatientName == images[0].PatientName
    seg.unlink()
    assert leaks(tmp_path / "out", running.said) == []
    assert "1.2.99" not in running.said
