"""Times of day as they are in Greenwich, for reports."""

from clock_fixtures import in_utc as in_utc
