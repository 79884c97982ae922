"""The commands of `python -m processing`.

tour.py      the introduction's programs (programs/), then checksums.py
bench.py     the speed table: rows.py says what is measured, loops.py how, peers.py against whom;
             measure.py runs one measurement in an interpreter of its own; report.py prints the tables
doctor.py    the findings of probes.py
facts.py     what bench and doctor say of the machine
terminal.py  what is printed: with rich and tqdm where they are installed, plainly otherwise
"""
