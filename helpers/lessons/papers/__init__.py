"""Small models of the papers that notebook 3 reads: pure functions, one module per paper.

| module | paper | what it models |
|---|---|---|
| `paged_attention` | Kwon et al., SOSP 2023, arXiv 2309.06180 | bytes and slots of the KV cache, four allocators, sharing with copy on write |
| `scheduling` | Orca (OSDI 2022) and Sarathi-Serve (OSDI 2024, arXiv 2403.02310) | which requests run in which step, and when each token comes out |
| `flash_attention` | Dao et al., NeurIPS 2022, arXiv 2205.14135 | tiled attention with an online softmax, and the memory traffic of both ways |
| `deepspeed_inference` | Aminabadi et al., SC 2022, arXiv 2207.00032 | rooflines of small products, fused chains, streaming weights from the host |
| `speculative` | Leviathan et al., ICML 2023, arXiv 2211.17192 | tokens per step, speed-up and extra work from the acceptance rate |
| `cost` | the industry reports of the reading list | money per million tokens |

`story` holds the sentences of notebook 3 that depend on what was measured. Numbers quoted from a paper are constants with the table or figure in their comment; everything else is
computed. Nothing here starts an engine, reads a clock or draws a picture.
"""
