"""Who answered which item with what score: the store, its matrix, and where the data come from."""
