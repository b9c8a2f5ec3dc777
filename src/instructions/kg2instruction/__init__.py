"""KG2Instruction: extraction training data out of Wikipedia's text and Wikidata's facts, without annotators.

A text that names two entities between which Wikidata knows a relation is taken to state it (distant supervision, Mintz
et al. 2009). What comes out are records as InstructIE has them (arXiv 2305.11527); `pipeline.make_records` is the way
in.
"""
