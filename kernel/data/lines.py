"""Regular expressions for one line of text, as sent in a request and as stored.

They mean the same in Python and in ECMAScript, for JSON Schema.
"""

import re

BLANK = r"[\s\x1c-\x1f\x85\ufeff]"  # the union of \s in Python and in ECMAScript
VISIBLE = r"[^\s\x00\x1c-\x1f\x85\ufeff]"
WITHIN = r"[^\x00\n-\r\x1c-\x1e\x85\u2028\u2029]"
LINE = re.compile(f"{BLANK}*{VISIBLE}({WITHIN}*{VISIBLE})?{BLANK}*")
LINE_PATTERN = f"^{LINE.pattern}$"
STORED_LINE = rf"[^\x00]*{VISIBLE}[^\x00]*"
