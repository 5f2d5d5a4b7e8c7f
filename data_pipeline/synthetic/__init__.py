"""The corpus of the demos: texts, questions and eSpeak voices."""
