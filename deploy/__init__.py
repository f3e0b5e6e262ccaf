"""The same experiment over a real network: a server, and clients on other machines. Flower carries the messages.

wire.py        what a message holds, as bytes without code in them
flower.py      the one file that knows Flower's interface
node.py        what a client does with a message: its share of the data, its local training
common.py      what clients with data of their own must agree on: classes, means, categories
limits.py      which flags a network cannot have
server.py      what the server does: the round loop of the simulation over the network
app/           what Flower carries to the machines: the names of the functions in node.py and server.py
identity.py    certificates and keys
up.py          all of it on one machine, with one command; processes.py starts and ends the programs
"""
