"""The pieces of `cstl.report`: a run folder is read, what it says is worked out, drawn, and
laid out as one page.
"""
