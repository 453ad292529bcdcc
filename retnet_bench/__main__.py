"""`python -m retnet_bench`."""

from retnet_bench.cli.main import main

if __name__ == "__main__":
    main()
