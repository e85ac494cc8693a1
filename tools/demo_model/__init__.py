"""How the demo checkpoint is made: pages drawn by the project itself, training, export and measuring.

Plain scripts, run from the project's root as `python -m tools.demo_model.NAME`. Nothing in the installed
package imports them.
"""
