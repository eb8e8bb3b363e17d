"""Points of four teams in five games."""

SCORES = {
    "Otters": [12, 7, 15, 9, 11],
    "Herons": [8, 14, 10, 13, 6],
    "Badgers": [9, 9, 12, 16, 10],
    "Foxes": [14, 5, 11, 7, 18],
}
