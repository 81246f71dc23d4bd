import threading

from skewless import progress


def test_counts_add_up_over_threads_and_start_again():
    progress.reset()
    threads = [
        threading.Thread(target=lambda: [progress.add("rows_read", 2) for _ in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.add("epochs")
    seen = progress.snapshot()
    assert seen == {"rows_read": 4_000, "epochs": 1}
    progress.add("epochs")
    assert seen["epochs"] == 1
    progress.reset()
    assert progress.snapshot() == {}
