"""The demonstration: a made-up shop, a real server, and what came of it. `python -m engine.demo`, or `make demo`.

- `shop` simulates the shop, cut into a past (files) and live days (calls ready to send), the truth apart
- `server` runs `arbiter` commands in processes of their own, and ends them whatever happens
- `stream` sends the calls over several connections, in the order that counts
- `analyst` edits a rule while the server runs, and waits for what comes of it
- `judge` compares decisions with the truth
- `story` does it all in nine steps, and `tell` says it to a person
"""
