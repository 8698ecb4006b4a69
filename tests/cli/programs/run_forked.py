"""``raylight run`` with one list of arguments after the other, each in a fork of this process.

Reads a JSON list of lists, and prints a JSON list of ``[exit status, standard output, standard error]``.
"""

import json
import os
import sys
import tempfile

from raylight.cli.main import main


def run(arguments):
    """Exit as the interpreter would: through its own handling of what the script raises."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.exit(main(["run", *arguments]))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
        return [status, *texts]


reports = [run(arguments) for arguments in json.load(sys.stdin)]
print(json.dumps(reports))
