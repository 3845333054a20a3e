"""What a cell shows: cards, numbers, figures and live views. Knows no engine and no store."""
