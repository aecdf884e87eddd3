"""The program: `python server.py [flags]`. Reads the flags, makes the owners of all state, serves the page and the API."""
import sys


def main(words: list[str]) -> int:
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
