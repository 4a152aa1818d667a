"""actors/gateway"""
