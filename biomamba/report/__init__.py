"""What people read at the end: tables of text, and one page of HTML. It reads what runs have left, nothing else."""
