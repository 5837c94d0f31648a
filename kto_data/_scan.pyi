from array import array

CONTRACT: int

def scan(
    data: bytes,
    ends: array[int],
    beginnings: bytes,
    longest: int,
    may_have_more: bool,
    lines: array[int],
    texts: array[int],
    /,
) -> int:
    """Tell the plain lines of `data`, of which `ends` are the ends, and where their texts stand. See `scan.c`.

    All arrays are of 64-bit numbers. `beginnings`: three bytes each that no string of a plain line holds; `longest`:
    bytes of a line; `may_have_more`: whether a plain line may have other fields than the messages and the label.

    Six numbers a line are written to `lines`: its roles, its label, whether one of its strings is spelled with an
    escape `\\u`, characters of its completion, and where its source begins and ends in `data`, zeros where it names
    none. The roles are the digits of a number to base 4 behind a 1, the first message's first, and 0 of a line that is
    not plain. To `texts` two numbers are written for each message of a plain line, where its text begins and ends in
    `data`, quotation marks included. Of a line for which there is no room left in `texts` it is not told that it is
    plain.

    Returns how many numbers were written to `texts`. Raises ValueError where ends do not ascend within `data`,
    where `lines` is not six times as long as they are, or where an array's numbers do not lie as 64-bit numbers do.
    """
