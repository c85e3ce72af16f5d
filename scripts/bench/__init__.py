"""The parts of the benchmarks: pure statistics, load, servers under test, charts."""
