"""`python -m retnet_bench`."""

from retnet_bench.cli import main

if __name__ == "__main__":
    main()
