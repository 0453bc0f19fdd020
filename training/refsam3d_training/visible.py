"""What an image of a grid may show although nobody contoured it there, and what it surely does not."""

#: Trained names that an image of a grid may show although nobody contoured them there: no evidence of absence.
MAY_BE_VISIBLE = {
    "head_neck": {"anterior hippocampus", "posterior hippocampus", "hippocampus"},
    "hippocampus": {"brainstem"},
    "abdomen": {"spinal cord", "esophagus"},
}
#: Untrained names that an image of a grid surely does not show. All others may be visible there though nobody contoured them, and a head CT
#: that is taught to hold no brain teaches that the image does not matter. Of a grid that is not listed nothing is known: any name is taken.
_BELOW_THE_HEART = (
    "liver", "spleen", "left kidney", "right kidney", "pancreas", "stomach", "gallbladder", "duodenum", "small bowel", "colon", "rectum", "bladder",
    "prostate", "uterus", "left adrenal gland", "right adrenal gland", "inferior vena cava", "portal vein", "sacrum", "left femur", "right femur",
)  # fmt: skip
_OF_THE_CHEST_AND_ARMS = (
    "heart", "left lung", "right lung", "aorta", "sternum", "left rib", "right rib", "left clavicle", "right clavicle", "left humerus",
    "right humerus", "left breast", "right breast", "trachea", "thyroid gland", "left vocal cord", "right vocal cord", "epiglottis",
)  # fmt: skip
_OF_THE_HEAD = (
    "left eye", "right eye", "left optic nerve", "right optic nerve", "optic chiasm", "left cochlea", "right cochlea", "pituitary gland",
    "cerebellum", "brain", "amygdala", "thalamus", "caudate nucleus", "putamen", "corpus callosum", "lateral ventricle", "left temporal lobe",
    "right temporal lobe", "maxilla", "tongue", "oral cavity",
)  # fmt: skip
SURELY_ABSENT = {
    "head_neck": {*_BELOW_THE_HEART},
    "hippocampus": {*_BELOW_THE_HEART, *_OF_THE_CHEST_AND_ARMS},
    "limb": {*_OF_THE_HEAD},
    "abdomen": {*_OF_THE_HEAD},
}
