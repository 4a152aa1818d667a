"""actors/stream"""
