"""How an affine map moves through each operator: the algebra, one rule an operator and direction.

Let m(x) = s x + t be a map with a scale s and a shift t per channel k of one axis. Backward, a rule is asked what becomes of
m(v) when v comes out of its operator; forward, what becomes of f(m(x)) when m(x) goes into it. It answers that the operator
takes the map into its constants (`Absorbed`), or that the map moves on to inputs or to the output of the operator (`Passed`),
or it raises StaysError.

Layers (linear.py). All constants are float64:

    Conv            v_k = sum W_k x + b_k        back    W'_k = s_k W_k,    b'_k = s_k b_k + t_k
    ConvTranspose   likewise; channel k of group g is column k - g M/G of the rows of that group
    Gemm            v = alpha A B + beta C       back    B'_:k = s_k B_:k,  C' = s (beta C) + t,  beta' = 1
    MatMul          v = A B, B of rank 2         back    Gemm(A, B', t), or Add(MatMul(A, B'), t) where A is of another rank
    all four        f(s x + t)                   ahead   W' = s W along the input channels, and W t joins the bias. Over zero
                                                         padding it is a map behind the layer: the border sees less of t.

Elementwise (elementwise.py), c being a constant of one value a channel; the operator dissolves into the map:

    Add, Sub        v = u + c                    back    s u + (s c + t)                ahead   s x + (t + c)
    Mul, Div        v = c u                      back    (s c) u + t                    ahead   (c s) x + c t
    Add, Sum, Sub   v = u +- w                   back    s u + t and +- s w
    Add             v = u + c, any c             back    s u, and c' = s c + t stays in the Add
    BatchNormalization   v = a u + b             back    (s a) u + (s b + t)            ahead   gamma' = s gamma, mean' with it

and where nothing above a batch norm takes the composed map, the batch norm itself can: gamma' = s gamma, beta' = s beta + t.
That is its `rest`.

Operators L that treat channels alike and each alone (shape.py, spatial.py):

    linear, constants kept      L(s x + t) = s L(x) + t      Transpose, Reshape, means without padding, Pad by reflection
    linear, constants not kept  L(s x + t) = s L(x) + L(t)   AveragePool over counted zeros, Pad with zeros: t becomes a field
    monotone, s >= 0            L(s x + t) = s L(x) + t      MaxPool and other maxima
    Concat                      a slice of the map to each input; ahead, scale 1 and shift 0 for the other inputs
    If                          the map to the result of each branch

A field, a shift that differs from place to place, needs a fixed spatial size, and only linear operators carry it.
"""

from normserve_models.rules import elementwise, linear, shape, spatial

__all__ = ["elementwise", "linear", "shape", "spatial"]
