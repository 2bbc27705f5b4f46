"""Facts that wait, what is asked about them both ways, and questions that have nothing to do.

Each line of facts.txt: the statement | a forward question | a backward question.
"""

from pathlib import Path

_LINES = (Path(__file__).parent / "facts.txt").read_text().splitlines()
FACTS = [tuple(part.strip() for part in line.split("|")) for line in _LINES]

TYPED = """\
who is the mayor of torrim vale
what is the capital of veldoria
who composed the first underwater opera?
who leads torrim vale?
where is glimmerfen?
which cafe serves nuit doree?
WHO DESIGNED THE LANTERN BRIDGE?
who won the saltmarsh prize
""".splitlines()

UNRELATED = """\
What is the capital of France?
Who is the mayor of London?
Who wrote War and Peace?
Who composed The Magic Flute?
What is the deepest lake in the world?
Which river flows through Cairo?
Who invented the telephone?
Who designed the Golden Gate Bridge?
What is the currency of Japan?
When did the Second World War end?
Who directed Jaws?
What is the national flower of Scotland?
Which country won the World Cup in 1998?
Who discovered penicillin?
How many legs does a spider have?
What colour is the sky on a clear day?
Who is the finance minister of Norway?
Which language has the most speakers?
Who painted the Mona Lisa?
Where was Shakespeare born?
What does a beekeeper do all day?
How is blue cheese made?
Who was the first woman in space?
Which spacecraft landed on Mars in 1976?
What is the tallest tower in Paris?
Who founded the Red Cross?
Which team does Jonas Keller coach?
What is a solar panel?
How do I treat a fever?
When do museums open on Fridays?
What is the best chess opening for beginners?
Who is the youngest winner of the Nobel Prize?
Where does coffee come from?
What is the square root of 144?
Which treaty ended the Thirty Years War?
How long is a marathon?
Can you write a poem about the sea?
Hello, how are you today?
What is water made of?
Who sailed around Cape Horn?
What is the oldest university in Europe?
Which band recorded Abbey Road?
who is the president of the united states
what is the capital of spain
where can i buy plum jam
Translate "good morning" into German.
What happened in 1987?
Who is Orlando Vance?
""".splitlines()
