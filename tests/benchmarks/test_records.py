import argparse

from records import command_line


def test_the_command_of_a_record_is_how_to_take_it_again():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--large-runs", type=int, default=3)
    parser.add_argument("--no-large", action="store_true")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--json")

    def told(*words):
        return command_line("/somewhere/benchmarks/spine.py", parser, parser.parse_args(words))

    assert told("--json", "/patient/figures.json", "--runs", "5") == "python benchmarks/spine.py"
    assert told("--large-runs", "1", "--no-large") == "python benchmarks/spine.py --large-runs 1 --no-large"
    assert told("--only", "a", "b") == "python benchmarks/spine.py --only a b"
