"""Export and import of weights: safetensors, torch, Orbax, PEFT adapters.

`sources` reads any stored model array by array, `layouts` maps arrays to tensor names, `directory`
writes them, `loading` puts them on devices.
"""
