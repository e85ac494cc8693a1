from benchmarks.growth import SLOTS, pictures


def test_a_run_begins_with_the_largest_shape_in_every_slot_and_goes_on_with_all_shapes_in_turn() -> None:
    sizes = [picture.size for picture in pictures(SLOTS + 240)]
    shapes = set(sizes)
    largest = max(shapes)
    assert sizes[:SLOTS] == [largest] * SLOTS
    assert all(side % 32 == 0 for size in shapes for side in size)
    assert (len(shapes), max(height for _, height in shapes)) == (120, largest[1])
    assert sizes[-120:] == sizes[-240:-120]
