"""What a line of text is: as a request may send it, and as a table may have it."""

import re

BLANK = r"[\s\x1c-\x1f\x85\ufeff]"  # \s in Python and in ECMAScript differ
VISIBLE = r"[^\s\x00\x1c-\x1f\x85\ufeff]"
WITHIN = r"[^\x00\n-\r\x1c-\x1e\x85\u2028\u2029]"
LINE = re.compile(f"{BLANK}*{VISIBLE}({WITHIN}*{VISIBLE})?{BLANK}*")
LINE_PATTERN = f"^{LINE.pattern}$"
STORED_LINE = rf"[^\x00]*{VISIBLE}[^\x00]*"
