from benchmarks import parts

WORKER = 'process 1:"python -m cli --set a;b";process 2:"python -m worker.sdk_worker_main";'


def test_the_same_decoder_counts_by_the_stage_that_called_it() -> None:
    decode = "_decode (facecap/transforms/decode.py:9)"
    before = f"detect_faces (facecap/transforms/detect.py:1);{decode}"
    for_chips = f"judge_sample (facecap/transforms/crop.py:1);{decode}"
    for_crops = f"crop_sample (facecap/transforms/crop.py:1);{decode}"
    assert parts.part(WORKER + before) == "decode before detection"
    assert parts.part(WORKER + for_crops) == "decode for crops"
    assert parts.part(WORKER + for_chips) == "decode for crops"


def test_a_function_of_the_line_is_told_from_the_beam_around_it() -> None:
    beam = "process (apache_beam/runners/common.py:1)"
    assert parts.part(WORKER + beam) == "Beam"
    crop = "encode_jpeg (facecap/transforms/crop.py:120)"
    assert parts.part(f"{WORKER}{beam};{crop};save (PIL/Image.py:2)") == "encode crops"


def test_what_waits_counts_for_nothing() -> None:
    waits = "run (threading.py:1);Condition.wait (threading.py:320)"
    assert parts.part(WORKER + waits) is None
    assert parts.shares(f"{WORKER}{waits} 90\n{WORKER}f (other.py:1) 10\n") == {parts.OTHER: 1.0}


def test_shares_leave_the_start_up_out() -> None:
    lines = (
        f"{WORKER}_find_and_load (<frozen importlib._bootstrap>:1) 80",
        f"{WORKER}phash (facecap/transforms/face_measures.py:1) 15",
        'process 1:"python -m cli";run (facecap/pipeline/local.py:1) 5',
        "py-spy's last words",
    )
    assert parts.shares("\n".join(lines)) == {"phash": 0.75, parts.LAUNCHER: 0.25}
