"""Faults on purpose: does a run survive what clusters do, what does it cost, and is the result the same?

``suite`` trains one small run undisturbed and then once more for every fault, which is struck several times at random
moments (``trial``). A ``fault`` is data: a name, what it does, how long it lasts, what it needs. Where it is done is a
``ground``: a small cluster of this project's own, where machines may be switched off, or the user's, where only his own
processes and files may be harmed. What came of it are a table and a JSON file (``report``).
"""
