"""The code behind the notebooks of Integration Week: each module has one job, in the order data flows.

profile -> engine / server -> workloads, measure, gpu_memory -> results -> plots, learnings
"""
