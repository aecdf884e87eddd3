// The frame of the page around its destinations.
