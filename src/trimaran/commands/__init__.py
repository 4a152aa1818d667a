"""src/trimaran/commands"""
