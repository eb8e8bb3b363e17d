#!/usr/bin/env bash
# The page of `herd arena` in a real browser: votes by mouse and keyboard, editing, dialogues that go on, kills, accessibility.
#
# usage: scripts/arena.sh
# As scripts/page.sh, which says what it needs and where the pictures lie.
exec env SUITE=arena.mjs "$(dirname "$0")/page.sh"
