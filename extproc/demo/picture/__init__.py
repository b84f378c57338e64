"""``build/demo.png``: the facts of ``build/demo.json`` as a picture.

style     colours
by_hand   who got version 2 over time, against the weight that was asked for
loops     weights, failures and false positives while nobody touches anything
"""
