"""The command line: parse, call one library function, print. Data goes to stdout, talk to stderr."""
