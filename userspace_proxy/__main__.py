"""`python -m userspace_proxy` is the console script `userspace-proxy`."""

from userspace_proxy.cli import main

if __name__ == "__main__":
    main()
