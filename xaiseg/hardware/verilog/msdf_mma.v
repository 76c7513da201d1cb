// Merged multiply-add, most significant digit first: the digits -1, 0, 1 of a sum of TERMS products, one a clock.
//
// The residual is held in two's complement. Each clock takes one digit of every serial operand and doubles the residual:
//     v = 2 w + sum(digit * weight);   digit out = v rounded to units of 2^UNITY, halves up;   w = v - digit out
// M. D. Ercegovac, T. Lang, "Digital Arithmetic", 2004, chapter 9. With MERGED the unit emits from its first clock on and
// has one leading digit more (the structure of arXiv:2610.11748, exact selection).
module msdf_mma #(
    parameter TERMS = 9,
    parameter BITS = 8,               // digits of a serial operand; width of a weight
    parameter WEIGHT_BITS = 8,
    parameter SIGNED = 0,             // serial operands in two's complement: their first digit counts negatively
    parameter MERGED = 0,
    parameter DELAY = 2,              // clocks without a digit at the start, 2 or 1; MERGED has none
    parameter GROWTH = $clog2(TERMS), // leading digits for the number of terms
    parameter PRELOADED = 0,          // a bias lies in the residual from the start, BITS places below the products
    parameter SERIAL = 0,             // a bias arrives digit by digit as one more term
    parameter UNITY = WEIGHT_BITS - 1 + GROWTH + (MERGED ? 1 : DELAY) + (PRELOADED ? BITS : 0),
    parameter WIDTH = UNITY + 3
) (
    input clk,
    input reset,
    input start,                           // with the first digits; may come on the clock after `done`
    input [TERMS-1:0] digits,              // zeros after the last digit
    input bias_digit,                      // SERIAL: the bias in two's complement, BITS + WEIGHT_BITS - 1 digits
    input signed [WIDTH-1:0] preload,      // PRELOADED: the bias in units of the exact sum's last digit
    input [TERMS*WEIGHT_BITS-1:0] weights, // signed, term 0 lowest
    input [7:0] count,                     // digits to emit
    output reg valid,
    output reg plus,                       // the digit is plus - minus
    output reg minus,
    output reg negative,                   // END: the running value is negative, so a ReLU gives 0
    output reg done                        // with the last digit
);
    localparam SILENT = MERGED ? 0 : DELAY;
    localparam SUM = WEIGHT_BITS + GROWTH + 1;
    localparam signed [WIDTH-1:0] HALF = {{(WIDTH - 1){1'b0}}, 1'b1} << (UNITY - 1);
    localparam signed [WIDTH-1:0] ONE = {{(WIDTH - 1){1'b0}}, 1'b1} << UNITY;
    localparam signed [SUM-1:0] BIAS = {{(SUM - 1){1'b0}}, 1'b1} << (WEIGHT_BITS - 1);

    reg busy, decided;
    reg [7:0] step;
    reg signed [WIDTH-1:0] residual;

    // The plane: what all digits of one weight bring.
    reg signed [SUM-1:0] plane;
    integer term;
    always @* begin
        plane = 0;
        for (term = 0; term < TERMS; term = term + 1)
            if (digits[term]) plane = plane + $signed(weights[term*WEIGHT_BITS +: WEIGHT_BITS]);
        if (SIGNED && start) plane = -plane;
        if (SERIAL && bias_digit) plane = start ? plane - BIAS : plane + BIAS;
    end

    wire [7:0] now = start ? 8'd0 : step;
    wire emits = (start || busy) && now >= SILENT;
    wire signed [WIDTH-1:0] held = start ? (PRELOADED ? preload : {WIDTH{1'b0}}) : residual;
    wire signed [WIDTH-1:0] brought = plane;
    wire signed [WIDTH-1:0] value = (held <<< 1) + (brought <<< (PRELOADED ? BITS : 0));
    wire is_plus = emits && value >= HALF;
    wire is_minus = emits && value < -HALF;
    wire last = emits && now + 8'd1 == SILENT + count;

    always @(posedge clk) begin
        valid <= !reset && emits;
        done <= !reset && last;
        busy <= !reset && (start || busy) && !last;
        plus <= is_plus;
        minus <= is_minus;
        // The first digit that is not 0 has the sign of the running value from then on.
        decided <= (decided && !start) || is_plus || is_minus;
        negative <= (negative && !start) || (is_minus && !(decided && !start));
        step <= now + 8'd1;
        residual <= is_plus ? value - ONE : is_minus ? value + ONE : value;
    end
endmodule
