"""Measure the grader by mutation: wrong solutions that nobody chose, and right ones rewritten with the same meaning.

`mutants` draws wrong ones with general operators on the syntax tree of correct solutions, `sift` tells the really wrong
ones from those that changed nothing by running both (`probe/`, which knows nothing of the grader's checks), `rewrites`
makes right ones, and `measure` grades them. Each has a development half, whose results are shown, and a held-out half,
of which only counts are.
"""
