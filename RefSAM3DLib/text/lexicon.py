"""English as far as prompts use it: words that carry no anatomy, words that combine structures, and spellings of one word.

Whatever is listed here may stand in a prompt without being part of a structure's name. Everything else must be accounted for by the
vocabulary: one word that is not turns a hit into a question. So a missing word here costs a confirmation, a wrong one a wrong mask.
"""

from __future__ import annotations

import re


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# Operators between structures. Words are made of letters and digits, so a symbol cannot be mistaken for one.
AND = "&"
LIST = ","
STOP = ";"
PLUS = "+"
MINUS = "-"
DASH = "–"
#: U+2212, which nobody types by accident; what it subtracts from is still asked where a name may be meant.
MINUS_SIGN = "\u2212"
OPERATORS = frozenset((AND, LIST, STOP, PLUS, MINUS, DASH, MINUS_SIGN))

#: Phrases that combine structures, longest first where one contains another.
OPERATOR_PHRASES: tuple[tuple[tuple[str, ...], str], ...] = tuple(
    sorted(
        (
            (tuple(phrase.split()), operator)
            for operator, phrases in {
                AND: ("and", "or", "as well as", "in addition to", "along with", "and also", "and then"),
                PLUS: ("plus", "together with", "combined with", "merged with", "joined with", "united with", "in union with"),
                MINUS: (
                    *("minus", "without", "except", "except for", "excepting", "excluding", "but not", "and not", "apart from"),
                    *("but without", "and without", "with the exception of", "subtracting", "less the"),
                ),
            }.items()
            for phrase in phrases
        ),
        key=lambda pair: -len(pair[0]),
    )
)
#: At the start of a prompt these make one result of a list ("union of A and B"), as do these at its end ("A and B together").
UNION_WORDS = frozenset(("union", "combination", "combine", "merge", "unite", "join", "sum"))
UNITING_ENDINGS = (("together",), ("combined",), ("merged",), ("as", "one"), ("in", "one"))
#: "subtract B from A" and its kin.
SUBTRACTING_VERBS = frozenset(("subtract", "remove", "exclude", "cut"))

NEGATIONS = _words("""
    no not none never neither nor non cannot cant dont doesnt isnt arent wont anything nothing absent missing lacking
""")
#: Between two structures these ask for something that is neither: such a text is never split into its parts.
RELATIONS = _words("""
    between intersection intersect intersecting overlap overlapping difference distance ratio versus vs around near nearby adjacent
    beside behind inside outside within below above under over beneath surrounding margin ring interface invading touching anastomosis
    connecting junction
""")
#: Beside a side these make it the viewer's: the left of a displayed image is usually the patient's right.
IMAGE_WORDS = _words("image images picture scan scans screen monitor display slice slices view")
VIEWERS = _words("image images picture scan scans screen monitor slice slices viewer viewers observer observers my your our")
SEEN_WORDS = _words("see seen shown displayed visible appears appearing looking")
BOTH_SIDES = frozenset(("both", "bilateral", "bilaterally"))

STOP_WORDS = _words("""
    a an the of in on at to for from by as is are be its it this that these those my your our their his her
""")
COMMANDS = _words("""
    segment segments segmenting segmented segmentation segmentations autosegment autosegmentation auto automatic automatically
    delineate delineated delineating delineation delineations contour contours contoured contouring outline outlines outlined
    outlining trace traced draw drawn drawing mark marked label labels labelled labeled mask masks masking highlight highlighted show
    shown display view find locate localize localise identify detect recognize recognise extract isolate get give generate create make
    produce compute provide perform run do annotate annotation select choose pick paint predict prediction visualize visualise
    boundary boundaries border borders voxel voxels pixel pixels belonging please kindly can could would will may might you i we me us
    id need want like see look looking let lets where what which there here how does lie lies help thanks thank hi hello hey now just
    only also too well try start ai model roi oar oars sam refsam3d 3d
""")
FILLERS = _words("""
    whole entire entirety complete full total all structure structures organ organs region regions area volume anatomy anatomical
    extent length risk interest visible located seen patient patients person subject human scan scans image images ct mr mri pet hand
    handed side sides sided
""")
#: "Part of the larynx" is not the larynx; but the anterior hippocampus is a part, and may be called one.
PART_WORDS = _words("""
    part parts portion portions half halves section sections segment third
""")

# One word per meaning, applied to the vocabulary and to the prompt alike. Adjectives and Latin count as their noun: what else stands
# beside them ("laryngeal nerve") must still be accounted for.
_SAME_WORD = {
    "tumour": "tumor",
    "tumours": "tumor",
    "neoplasia": "neoplasm",
    "anteriorly": "anterior",
    "posteriorly": "posterior",
    "hippocampal": "hippocampus",
    "laryngeal": "larynx",
    "esophageal": "esophagus",
    "mandibular": "mandible",
    "mandibula": "mandible",
    "parotidea": "parotid",
    "parotis": "parotid",
    "parotideal": "parotid",
    "glandula": "gland",
    "sarcomatous": "sarcoma",
    "hippocampi": "hippocampus",
    "esophagi": "esophagus",
    "larynges": "larynx",
    "spinalis": "spinal",
    "hepatic": "liver",
    "splenic": "spleen",
    "renal": "kidney",
    "cardiac": "heart",
    "pulmonary": "lung",
    "pancreatic": "pancreas",
    "cerebellar": "cerebellum",
    "thalamic": "thalamus",
    "femoral": "femur",
    "tracheal": "trachea",
    "pharyngeal": "pharynx",
}
#: Real words within a typing error of a structure's name. They are never taken for a misspelling of it.
LOOKALIKES = _words("""
    carotid pharynx parotitis parathyroid sarcoid sarcomere carcinoma maxilla spine mandibulectomy laryngitis esophagitis
""")
#: Bases that do have a left and a right in the body; where a vocabulary has them without a side, its training data recorded none.
PAIRED_IN_THE_BODY = frozenset(("hippocampus", "sarcoma"))

_PLURAL = re.compile(r"(?<=[a-z]{2}[^sui])s$")


def canonical_word(word: str) -> str:
    """Return one form for singular and plural, British and US spelling, adjective and noun.

    >>> [canonical_word(word) for word in ("glands", "oesophageal", "hippocampus", "masses", "sarcomata", "STS".lower())]
    ['gland', 'esophagus', 'hippocampus', 'mass', 'sarcoma', 'sts']
    """
    if word.startswith("oesoph"):
        word = word[1:]
    word = _SAME_WORD.get(word, word)
    if word.endswith("omata"):
        return word[:-2]
    if word.endswith(("sses", "xes")):
        return word[:-2]
    singular = _PLURAL.sub("", word)
    return _SAME_WORD.get(singular, singular)


NEUTRAL = frozenset(canonical_word(word) for word in COMMANDS | FILLERS | STOP_WORDS)
NEUTRAL_PARTS = frozenset(canonical_word(word) for word in PART_WORDS)
EMPTY_WORDS = frozenset(canonical_word(word) for word in STOP_WORDS)
