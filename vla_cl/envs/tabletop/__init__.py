"""The backend "tabletop": manipulation scenes that are declared, not programmed, on robosuite's arms and table.

`scene` is the declaration and `checks` refuses impossible ones, `objects` and `fixtures` are what can be declared,
`predicates` say what is true, `placement` draws initial states, `world` builds the scene into robosuite, `env` is the
`ManipulationEnv`.
"""
