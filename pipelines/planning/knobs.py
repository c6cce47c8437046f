"""The settings that a plan may choose. Loads nothing: the help of `python -m pipelines plan` lists them."""

PLANNED = {
    "spacing": "millimetres per voxel",
    "normalization": "of each channel: CT, zscore, rescale_to_0_1, rgb_to_0_1, noNorm",
    "window": "[lower, upper] in HU, of channels that are CT",
    "crop_above": "value above which the patient is, to cut air away; null keeps all",
    "patch_size": "voxels per axis",
    "features": "channels per level of the network",
    "batch_size": "patches per step",
    "foreground": "share of the patches that hold a class for sure",
    "dice_smooth": "voxels added to both sides of the Dice in the loss",
    "flip_axes": "axes along which patches are flipped",
    "overlap": "of neighbouring windows, where cases are validated and predicted",
    "mirror_axes": "axes along which inputs are mirrored too, where cases are validated and predicted",
    "augmentation": "how often patches are rotated and scaled: strong or moderate",
    "epochs": "how many",
    "patches_per_epoch": "how many",
    "learning_rate": "of the optimiser",
    "warmup_steps": "steps in which the learning rate rises",
    "schedule": "of the learning rate: cosine, wsd, poly or constant",
    "ema": "decay of the moving average of the weights",
    "val_interval": "epochs between validations",
}
"""Ids of a config that a plan gives a value to where they are "auto", and what they are, in the order of reading."""
