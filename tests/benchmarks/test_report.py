from benchmarks import report
from benchmarks.memory import Peak
from benchmarks.rounds import Comparison, Round


def comparison(ours: float, peers: float) -> Comparison:
    """One round at these images per second, on 100 images."""
    return Comparison(
        ours=[Round("ours", 100 / ours, 1, 1, 1, 100)],
        peers=[Round("peers", 100 / peers, 1, 1, 1, 100)],
    )


def test_the_ratio_is_that_of_the_medians() -> None:
    rounds = Comparison()
    for ours, peers in ((100, 50), (300, 40), (200, 10)):
        one = comparison(ours, peers)
        rounds.ours += one.ours
        rounds.peers += one.peers
    assert round(rounds.ratio, 6) == 200 / 40


def test_each_figure_is_held_against_its_floor() -> None:
    results = report.Results(rows=100, photographs=10)
    results.fetch, results.line = comparison(210, 100), comparison(29, 10)
    results.line.extra["differences"] = ["one"]
    results.few, results.many = Peak(10, 10**9, []), Peak(100, 12 * 10**8, [])
    passed = {floor.name: floor.passed for floor in report.floors(results)}
    assert passed == {
        "fetch_ratio": True,
        "line_ratio": False,
        "different_faces": False,
        "peak_gb": True,
        "memory_growth": False,
    }


def test_the_kernel_share_is_of_wall_time_times_two_cores() -> None:
    results = report.Results(rows=100, photographs=10)
    results.line = comparison(80, 10)
    # 5 ms of sha256, a whole stage of 25 ms and a second decoding are no bare calls; 20 ms are.
    results.kernels = {"detect": 0.025, "detect/decode": 0.015, "detect/model": 0.005, "sha256": 5}
    results.kernels["crop/decode"] = 0.002
    assert results.kernel_share is not None
    assert round(results.kernel_share, 6) == 0.8


def test_parts_that_were_left_out_have_no_floor() -> None:
    assert report.floors(report.Results(rows=100, photographs=10)) == []
