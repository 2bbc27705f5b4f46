"""How wide the invented world is: the shipped model was trained on a narrow part of it.

Retrieval of a stated fact by a question appeared in the narrow world only (docs/starter.md); these
numbers are where it is widened. Everything here is a share or a count; the frames lie in data/.
"""

# Of these lists of frames only the first so many are used, of the others all.
FRAMES = {
    "role_a": 6,
    "role_b": 4,
    "did": 5,
    "done": 4,
    "describe": 12,
    "ask_a_role": 3,
    "ask_a_role_b": 2,
    "ask_a_did": 3,
    "ask_a_done": 1,
    "ask_b_role": 3,
    "ask_b_role_b": 3,
    "ask_b_base": 3,
    "ask_b_state": 2,
    "ask_b_done": 3,
    "ask_description": 3,
    "ask_described": 4,
}
# Relations drawn from the list; the others are made up from any role or verb.
LISTED = 1.0
# Sentences with a lead, a tail or an unrelated sentence beside them.
DRESSED = 0.0
# Forms of items; what is left are biographies.
RELATIONS, DESCRIPTIONS, EVENTS = 0.3, 0.7, 0.0
# Kinds that descriptions are about, in their shares.
DESCRIBED = ("person",)
# Names made of syllables; the others are made of listed words, a few tokens each.
COINED = 0.0
# Kinds that relations start from.
SUBJECTS = ("person",)
