// Feeds the vectors of vectors.hex to one unit, one sum straight after the other, and writes what comes out, one line a
// sum: the digits 1 and the digits -1 as words whose last bit is the last digit, the number of digits, clocks before the
// first digit, clocks up to `done`, the clock in which `negative` rose (0 = never). The first clock takes the first digits of the operands.
module msdf_testbench;
    parameter VECTORS = 1;
    parameter TERMS = 9;
    parameter BITS = 8;
    parameter WEIGHT_BITS = 8;
    parameter SIGNED = 0;
    parameter CARRY_SAVE = 0;
    parameter MERGED = 0;
    parameter DELAY = 2;
    parameter GROWTH = $clog2(TERMS);
    parameter PRELOADED = 0;
    parameter SERIAL = 0;

    localparam WIDTH = WEIGHT_BITS + 2 + GROWTH + (MERGED ? 1 : DELAY) + (PRELOADED ? BITS : 0);
    localparam BIAS_BITS = BITS + WEIGHT_BITS - 1;
    localparam LIMIT = 200;  // clocks after which a sum without `done` is given up

    reg [TERMS*WEIGHT_BITS + BITS*TERMS + WIDTH + BIAS_BITS + 8 - 1 : 0] vectors [0:VECTORS-1];
    reg [TERMS*WEIGHT_BITS-1:0] weights;
    reg [BITS*TERMS-1:0] planes;  // first digits lowest
    reg signed [WIDTH-1:0] preload;
    reg [BIAS_BITS-1:0] bias;     // first digit lowest
    reg [7:0] count;
    reg clk = 0, reset = 1, start = 0, bias_digit = 0;
    reg [TERMS-1:0] digits = 0;
    wire valid, plus, minus, negative, done;

    generate
        if (CARRY_SAVE)
            msdf_mma_carry_save #(.TERMS(TERMS), .BITS(BITS), .WEIGHT_BITS(WEIGHT_BITS), .SIGNED(SIGNED), .GROWTH(GROWTH)) unit (
                .clk(clk), .reset(reset), .start(start), .digits(digits), .weights(weights), .count(count),
                .valid(valid), .plus(plus), .minus(minus), .negative(negative), .done(done));
        else
            msdf_mma #(.TERMS(TERMS), .BITS(BITS), .WEIGHT_BITS(WEIGHT_BITS), .SIGNED(SIGNED), .MERGED(MERGED), .DELAY(DELAY),
                       .GROWTH(GROWTH), .PRELOADED(PRELOADED), .SERIAL(SERIAL)) unit (
                .clk(clk), .reset(reset), .start(start), .digits(digits), .bias_digit(bias_digit), .preload(preload),
                .weights(weights), .count(count),
                .valid(valid), .plus(plus), .minus(minus), .negative(negative), .done(done));
    endgenerate

    integer results, place, emitted, clocks, silent, ended;
    reg [63:0] ones, minus_ones;
    initial begin
        $readmemh("vectors.hex", vectors);
        results = $fopen("results.txt", "w");
        weights = 0; planes = 0; preload = 0; bias = 0; count = 1;
        #1 clk = 1; #1 clk = 0; reset = 0;
        for (place = 0; place < VECTORS; place = place + 1) begin
            {weights, planes, preload, bias, count} = vectors[place];
            ones = 0; minus_ones = 0; emitted = 0; clocks = 0; silent = 0; ended = 0; start = 1;
            while (start || (!done && clocks < LIMIT)) begin
                start = clocks == 0;
                digits = clocks < BITS ? planes[clocks*TERMS +: TERMS] : {TERMS{1'b0}};
                bias_digit = clocks < BIAS_BITS ? bias[clocks] : 1'b0;
                #1 clk = 1; #1 clk = 0;
                start = 0;
                clocks = clocks + 1;
                if (valid) begin
                    emitted = emitted + 1;
                    ones = {ones[62:0], plus};
                    minus_ones = {minus_ones[62:0], minus};
                end else if (emitted == 0) silent = silent + 1;
                if (negative && ended == 0) ended = clocks;
            end
            $fwrite(results, "%h %h %0d %0d %0d %0d\n", ones, minus_ones, emitted, silent, clocks, ended);
        end
        $fclose(results);
        $finish(0);
    end
endmodule
