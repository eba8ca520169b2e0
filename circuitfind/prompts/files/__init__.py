"""Tasks and prompts on disk: a name or a path in, a Task out.

source.py         a built-in name, a task file or a prompts file -> Task
python.py         a .py file with TASK -> Task
yamlfile.py       a .yaml file -> Task
prompts_file.py   .jsonl and .csv: the prompts file of the contract, read and written
check.py          everything wrong with a task or prompts file
"""

from circuitfind.prompts.files.check import Report, check_task
from circuitfind.prompts.files.prompts_file import read_prompts, write_prompts
from circuitfind.prompts.files.source import builtin_tasks, load_task

__all__ = ["Report", "builtin_tasks", "check_task", "load_task", "read_prompts", "write_prompts"]
