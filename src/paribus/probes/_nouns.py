"""Words and sentences of the probe of noun lists, after Armeni, Honey and Linzen (2022)."""

from __future__ import annotations

NOUNS: tuple[str, ...] = tuple(
    "window garden river bottle mountain ticket kitchen jacket engine blanket market island pencil "
    "hammer candle forest basket camera ladder pillow bridge doctor button carpet dragon farmer "
    "feather guitar helmet insect jungle kettle lemon magnet needle oven parrot quilt rabbit "
    "saddle teacher tunnel umbrella valley wagon butter cabin desert eagle fountain glove harbor "
    "ink jewel "
    "knife lantern mirror notebook orchard palace queen rocket shovel tower uncle village whistle "
    "anchor barrel castle drum envelope flag".split()
)
FIRST = "Mary wrote down a list of words. After she had finished, she read the list aloud:"
AFTER = "After that, she put the paper away and went outside for a while."
SECOND = "When she came back, she read the list again:"
NEUTRAL = (
    "The day was mild and the light was soft. People walked along the street and talked about what "
    "they had done in the morning. Some of them stopped for a moment and looked around. Nothing "
    "much happened, and nobody was in a hurry. A little later it became quiet, and the air was "
    "still. There was time to think about this and that, and then it was time to go on."
)
