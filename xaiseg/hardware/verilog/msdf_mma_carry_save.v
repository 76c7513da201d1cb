// Merged multiply-add, most significant digit first, whose residual is a sum word and a carry word.
//
// One row of full adders a term, in the order of the terms; a row runs for a digit 0 and after the last digit too, and a
// weight is subtracted as its complement and a carry. The digit is selected from the leading bits of the two words, two
// of them behind the point. Another order of the rows emits other digits of the same sum. DELAY is 2.
// M. D. Ercegovac, T. Lang, "Digital Arithmetic", 2004, chapter 9.
module msdf_mma_carry_save #(
    parameter TERMS = 9,
    parameter BITS = 8,
    parameter WEIGHT_BITS = 8,
    parameter SIGNED = 0,
    parameter GROWTH = $clog2(TERMS),
    parameter UNITY = WEIGHT_BITS - 1 + GROWTH + 2,
    parameter WIDTH = UNITY + 3
) (
    input clk,
    input reset,
    input start,
    input [TERMS-1:0] digits,
    input [TERMS*WEIGHT_BITS-1:0] weights,
    input [7:0] count,
    output reg valid,
    output reg plus,
    output reg minus,
    output reg negative,
    output reg done
);
    localparam SILENT = 2;
    localparam LOW = UNITY - 2;     // bits below the estimate
    localparam HIGH = WIDTH - LOW;  // bits of the estimate, 3 before the point and 2 behind it

    reg busy, decided;
    reg [7:0] step;
    reg [WIDTH-1:0] total, carry;

    wire [7:0] now = start ? 8'd0 : step;
    wire emits = (start || busy) && now >= SILENT;
    wire last = emits && now + 8'd1 == SILENT + count;

    reg [WIDTH-1:0] t, c, addend, spare;
    reg signed [HIGH-1:0] estimate;
    reg is_plus, is_minus, subtracts;
    integer term;
    always @* begin
        t = start ? {WIDTH{1'b0}} : total << 1;
        c = start ? {WIDTH{1'b0}} : carry << 1;
        for (term = 0; term < TERMS; term = term + 1) begin
            subtracts = SIGNED && start && digits[term];
            addend = {WIDTH{1'b0}};
            if (digits[term])
                addend = {{(WIDTH - WEIGHT_BITS){weights[term*WEIGHT_BITS + WEIGHT_BITS - 1]}},
                          weights[term*WEIGHT_BITS +: WEIGHT_BITS]};
            if (subtracts) addend = ~addend;
            spare = t;
            t = t ^ c ^ addend;
            c = ((spare & c) | (spare & addend) | (c & addend)) << 1;
            c[0] = subtracts;  // free after the shift
        end
        estimate = t[WIDTH-1:LOW] + c[WIDTH-1:LOW];
        is_plus = emits && estimate >= 2;
        is_minus = emits && estimate <= -3;
        if (emits) begin
            // The leading bits are added up anyway: they replace those of the sum word.
            t[WIDTH-1:LOW] = is_plus ? estimate - 4 : is_minus ? estimate + 4 : estimate;
            c[WIDTH-1:LOW] = 0;
        end
    end

    always @(posedge clk) begin
        valid <= !reset && emits;
        done <= !reset && last;
        busy <= !reset && (start || busy) && !last;
        plus <= is_plus;
        minus <= is_minus;
        decided <= (decided && !start) || is_plus || is_minus;
        negative <= (negative && !start) || (is_minus && !(decided && !start));
        step <= now + 8'd1;
        total <= t;
        carry <= c;
    end
endmodule
