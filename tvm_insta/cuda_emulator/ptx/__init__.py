"""From PTX text to C++: parse, then a rule for each instruction."""
