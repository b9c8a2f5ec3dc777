"""What a written GGUF file is compared on: a short text in two languages, prompts, and texts that are hard to cut.

Written for this project, so that the numbers of an export can be compared from machine to machine. Changing it changes
them.
"""

TEXT = """\
A river does not need to know where the sea is. It follows the slope of the land, gathers what the rain brings, and
slows down where the valley opens. For a long time people measured its height with marks on a stone; today a small
radio sends the number every ten minutes, and a table of 1,440 rows describes ten days. Neither the stone nor the
table explains the river, but both let us notice that something has changed.

知识从哪里来？有人说来自书本，有人说来自经验。其实书本也是前人的经验，只是写下来以后，可以走得更远。河水上涨的时候，
老渔民看云，工程师看数据，两个人常常得出同样的结论。

Language models are trained on such sentences. They learn that Paris is the capital of France, that water boils at 100
degrees Celsius at sea level, and that a list in Python can be sorted with `sorted(values, key=len)`. They also learn
mistakes, because mistakes are written down too. A careful reader therefore asks two questions of every answer: is it
supported by a source, and would the opposite have sounded just as convincing?

把一个模型压缩成更小的文件，就像把一幅画缩小：轮廓还在，细节会变。所以要量一量，变了多少。
"""

PROMPTS = (
    "The capital of France is",
    "春天来了，花园里",
    "def fibonacci(n):\n    if n < 2:\n        return",
)

HARD_TO_CUT = (
    " ",
    "  two blanks, a tab\t and\n\n\nlines \n",
    "It's 3.14159, isn't it? I'LL pay $1,234.50 on 2024-05-06.",
    "x =  12\n    y = [1, 22, 333, 4444]",
    "今天天气很好！“走吧。”他说……第2段",
    "naïve café Straße ДОМ ελληνικά العربية 한국어 ﬁ １２",
    "😀👩\u200d👧🏽 🇩🇪 e\u0301 \ufeff\u3000\u200b",
    "snake_case camelCase HTTPServer2 ======= ''''' ......!!!???",
)
