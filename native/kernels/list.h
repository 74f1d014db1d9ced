// Every kernel, in opcode order. K(name) has no workspace; KW(name) also defines name##_workspace.
// A kernel `name` is `static void NS::name(const Arg* a, void* ws)` in the .inc file that owns it.
#ifndef KERNEL_LIST
#define KERNEL_LIST(K, KW)                                                                                   \
  /* matmul.inc */ KW(matmul)                                                                                \
  /* embedding.inc */ K(embedding) KW(embedding_grad) K(select_rows) KW(select_rows_grad)                    \
  /* norm.inc */ K(rms_norm) K(rms_norm_grad) KW(rms_norm_grad_weight)                                       \
  /* rope.inc */ K(rope)                                                                                     \
  /* attention.inc */ KW(attention) KW(attention_grad) K(kv_write) KW(attention_cached)                      \
  /* glu.inc */ K(glu) K(glu_grad)                                                                           \
  /* loss.inc */ KW(linear_cross_entropy) KW(cross_entropy) K(cross_entropy_grad)                            \
  /* elementwise.inc */ K(unary) K(unary_grad) K(binary) K(reduce) K(column_sum) K(dropout) K(fill) K(copy)  \
  /* optim.inc */ K(sum_squares) K(clip_factor) K(adamw) K(adamw8bit)                                        \
  /* quant.inc */ K(dequantize) K(quantize_nf4)
#endif
