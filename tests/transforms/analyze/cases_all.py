"""Every case of the equivalence suite."""

from tests.transforms.analyze import (
    cases_edges,
    cases_keys,
    cases_numbers,
    cases_phases,
    cases_text,
    cases_vocabularies,
)

CASES = (
    *cases_numbers.CASES,
    *cases_keys.CASES,
    *cases_vocabularies.CASES,
    *cases_text.CASES,
    *cases_phases.CASES,
    *cases_edges.CASES,
)
